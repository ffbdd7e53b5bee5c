"""`retreever train` as a job: `ray job submit --working-dir . -- python -m jobs.train ...`."""

from retreever.cli.main import main

if __name__ == "__main__":
    main(verb="train")
