"""Synthetic data with the sizes of real data sets.

`synthetic` draws interactions and triples and writes RecBole's files; `array_dataset` and
`array_loader` give them to models without files.
"""
