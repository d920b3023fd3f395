"""`python -m zeronorm` is the command line, also where its script is not on the path."""

from zeronorm.cli.main import main

if __name__ == "__main__":
    main()
