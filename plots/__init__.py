"""The figures: one module each, which holds a ``FIGURE``; ``registry.Figure`` says what that is.

Imported as ``ttt.plots``; modules in here import one another relatively. Listing the figures must answer at once, so
pandas and matplotlib are imported inside the functions that draw.
"""
