"""The figures. ``registry`` finds the ``Figure`` objects of all modules in this folder.

Imported as ``ttt.plots``; modules here import one another relatively. Listing the figures must be fast, so pandas and
matplotlib are imported inside the functions that use them.
"""
