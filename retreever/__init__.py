"""retreever: learned binary routing trees whose levels are coarse-to-fine representations of text.

`import retreever` loads neither ray nor mlflow; see `retreever.training.training_loop.fit` to train,
`retreever.bundle.retriever.Retreever` to search, and `retreever --help` for the whole life of a model.
"""

__version__ = "0.1.0"
