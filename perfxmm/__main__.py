"""`python -m perfxmm` is the `perfxmm` command."""

from perfxmm.cli.main import run

if __name__ == "__main__":
    run()
