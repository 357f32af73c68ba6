"""The commands of ``xl``, a module for each group. Each ``run_NAME(arguments, settings)`` answers the exit status.

:mod:`toolstack.command_table` says which module has which command; nothing else imports them.
"""
