"""``python -m toolstack`` is ``xl``."""

from toolstack.main import main

if __name__ == "__main__":
    main()
