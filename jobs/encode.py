"""`retreever encode` as a job: `ray job submit --working-dir . -- python -m jobs.encode ...`."""

from retreever.cli.main import main

if __name__ == "__main__":
    main(verb="encode")
