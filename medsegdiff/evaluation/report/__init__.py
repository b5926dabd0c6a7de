"""The page, the JSON and the table of an evaluation."""
