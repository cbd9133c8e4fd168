"""What a checkpoint holds beyond Lightning's: plain data that rebuilds the module, and what a run goes on with."""
