"""What an application is given beside an exported folder: run.py's arithmetic as a C++ header."""
