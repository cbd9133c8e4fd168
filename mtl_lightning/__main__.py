"""``python -m mtl_lightning`` is the ``mtl-lightning`` program."""

from mtl_lightning.cli import main

if __name__ == "__main__":
    main()
