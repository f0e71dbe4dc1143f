"""`python -m motivnet` is the program `motivnet`."""

from motivnet.cli.main import main

if __name__ == "__main__":
    main()
