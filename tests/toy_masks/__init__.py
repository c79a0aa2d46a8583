"""A plugin with a task of its own: masks of coloured squares on the toy detector's grid."""
