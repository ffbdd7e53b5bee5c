"""The rows of the splits: what they start with, and how they are turned so that nodes are topics."""
