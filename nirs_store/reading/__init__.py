"""Reading files of spectra: one reader for Python, the command line and the script of a bundle."""
