"""The explainer: which parts of an input carry an answer. It asks the model about changed inputs, never for weights."""
