"""``python -m charm_rm``: the `charm` command, for launchers that start a module."""

from charm_rm.cli.main import main

if __name__ == "__main__":
    main()
