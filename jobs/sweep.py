"""`retreever sweep` as a job: `ray job submit --working-dir . -- python -m jobs.sweep ...`."""

from retreever.cli.main import main

if __name__ == "__main__":
    main(verb="sweep")
