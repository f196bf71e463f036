"""Many runs: which are open, one after the other or several at once, and how they are stopped."""
