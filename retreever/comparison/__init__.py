"""Trees against baselines on one split: quality at every size, with intervals and paired tests."""
