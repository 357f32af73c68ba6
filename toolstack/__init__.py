"""The toolstack: the ``xl`` command line, and the parts of it that correspond to libxl and libxenguest.

Where to enter: :func:`toolstack.main.run` (one command line to an exit status), :mod:`toolstack.command_table` (every
command), :mod:`toolstack.create` (a configuration to a running domain), :mod:`toolstack.builder` (a guest's bytes).

Commands are modules that are imported when they run, and heavy libraries only where they are used: ``xl list`` is
started by scripts many times and must not pay for a configuration parser.
"""
