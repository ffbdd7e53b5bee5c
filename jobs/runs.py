"""`retreever runs` as a job: `ray job submit --working-dir . -- python -m jobs.runs list ...`."""

from retreever.cli.main import main

if __name__ == "__main__":
    main(verb="runs")
