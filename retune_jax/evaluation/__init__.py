"""What a trained model can do: accuracy by length with intervals, and where its mistakes begin."""
