"""The typed face of the C engine `bedplate._native`; nothing else imports that module.

Calls here release the GIL while C runs. Those that say "blocks" belong in a thread.
"""
