"""Every py4j call of the kit, and nothing else: the rest of the package uses PySpark's public API.

Each function names the class it relies on, each module the version. All were read and tested on Spark 4.2.1; `surgery`
and `callbacks`, the riskiest, refuse a Spark whose signatures differ.
"""
