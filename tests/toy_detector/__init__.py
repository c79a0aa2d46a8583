"""The plugin with which the core tests itself: coloured squares on a grid."""
