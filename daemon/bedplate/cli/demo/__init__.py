"""`bedplate demo`: a real directory tree, a killed daemon, every acknowledged byte checked.

    demo (command) -- Stage: scratch directory, daemon, console, seed
       `-- PARTS: one for each layer; each drives the stage and returns its report
              storage   store a tree, SIGKILL in the middle, restart, verify, finish, verify
             cluster   three daemons: writes, SIGKILL the leader, writes go on, restart, compare

A later layer adds a module with a `run(stage) -> Report` and names it in PARTS.
"""

from bedplate.cli.demo.command import add_commands

__all__ = ["add_commands"]
