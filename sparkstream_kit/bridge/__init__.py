"""Every py4j crossing of the kit, and nothing else: the rest of the package speaks PySpark's public API.

Each function names the Spark class it relies on; all were read and tried on Spark 4.2.1.
"""
