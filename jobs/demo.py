"""`retreever demo` as a job: `ray job submit --working-dir . -- python -m jobs.demo ...`."""

from retreever.cli.main import main

if __name__ == "__main__":
    main(verb="demo")
