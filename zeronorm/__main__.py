"""`python -m zeronorm`: the command line, for where its script is not on the path."""

from zeronorm.cli.main import main

if __name__ == "__main__":
    main()
