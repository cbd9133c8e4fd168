"""Everything that outwits Lightning, one file per trick; each names the symbol of Lightning that it relies on."""
