"""What the methods under test are compared with, one file each."""
