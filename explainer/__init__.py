"""The explainer: says which parts of an input carry an answer, by asking the model about changed inputs. It never sees weights."""
