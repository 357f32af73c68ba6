"""The debug console of a guest: the SBSA UART that it sees, the log of what it said, and attaching a terminal to it.

Where to enter:

* ``vuart.sbsa_uart.SbsaUart``: the device model, called by the hypervisor for each guest access.
* ``vuart.history``: ``ConsoleLog`` (the append-only file behind a console) and ``ConsoleReader``.
* ``vuart.attach.attach``: the terminal side, used by ``xl console`` and ``xl create -c``.

The three know nothing of each other or of any other package: bytes go from the model's sink into the log, and the
client reads them through whatever transport it is handed.
"""
