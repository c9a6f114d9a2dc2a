"""v13.measures"""
