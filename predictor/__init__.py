"""The predictor: runs models behind the Open Inference Protocol and LanguageModel services."""
