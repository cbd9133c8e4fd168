"""A trained model as a function of raw rows: tables of any kind in, named answers out; no trainer."""
