"""HQDE's front: ``HQDESystem`` and the parts that it is made of."""
