"""``python -m sdqueue.cli``: the same as ``sdqueue``, for a known interpreter."""

from sdqueue.cli import main

if __name__ == "__main__":
    main()
