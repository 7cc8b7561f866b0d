"""The answer: predictor, HTTP, the stream worker, the decision log, reviews."""
