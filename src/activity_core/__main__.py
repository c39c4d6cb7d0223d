"""``python -m activity_core``."""

from activity_core.cli import main

if __name__ == "__main__":
    main()
