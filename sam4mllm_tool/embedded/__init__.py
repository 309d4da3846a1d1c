"""The small trained pair that comes with the package, and the drawn world that it knows."""
