"""The engines that can carry out a run: inline, Ray and Flower."""
