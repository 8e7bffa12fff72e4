"""Run the command line: `python -m minitoolai`."""

from minitoolai.cli.main import main

if __name__ == "__main__":
    main()
