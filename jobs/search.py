"""`retreever search` as a job: `ray job submit --working-dir . -- python -m jobs.search ...`."""

from retreever.cli.main import main

if __name__ == "__main__":
    main(verb="search")
