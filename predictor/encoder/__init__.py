"""Text encoders of the BERT family: a text, or a pair of texts, becomes vectors. Knows no runtime port and no wire."""
