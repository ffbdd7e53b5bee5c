"""`python -m retreever VERB`: the same as `retreever VERB`."""

from retreever.cli.main import main

if __name__ == "__main__":
    main()
