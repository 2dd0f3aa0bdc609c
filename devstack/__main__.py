"""`make run`, once the environment exists."""

import argparse
import sys
from pathlib import Path

from devstack.layout import Layout
from devstack.parent import follow_parent
from devstack.supervisor import main


def layout_from(arguments: list[str]) -> Layout:
    parser = argparse.ArgumentParser(prog="devstack", description="Run the marketplace on this machine.")
    parser.add_argument("--root", type=Path, default=Layout.root, help="the checkout (this one)")
    parser.add_argument("--var", type=Path, default=Layout.var, help="where all data goes (var/)")
    given = parser.parse_args(arguments)
    return Layout(root=given.root.resolve(), var=given.var.resolve())


if __name__ == "__main__":
    follow_parent()
    sys.exit(main(layout_from(sys.argv[1:])))
