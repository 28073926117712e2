"""Networks in the manner of the five articles that the project starts from. The code is ours."""
