"""`retreever data` as a job: `ray job submit --working-dir . -- python -m jobs.data ...`."""

from retreever.cli.main import main

if __name__ == "__main__":
    main(verb="data")
