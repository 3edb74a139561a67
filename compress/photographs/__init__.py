"""Photographs as phones and scanners make them: read as 8-bit sRGB, written over nothing.

The package needs numpy and Pillow only and imports nothing of the project: `export` copies it into
host/ of an exported folder, so that `compress.upscale` and run.py read, name, check and write in
the same way.
"""
