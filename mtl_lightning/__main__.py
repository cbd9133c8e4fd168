"""``python -m mtl_lightning`` is the ``mtl-lightning`` program."""

if __name__ == "__main__":  # a server's workers import this file, too, and need no command line
    from mtl_lightning.cli import main

    main()
