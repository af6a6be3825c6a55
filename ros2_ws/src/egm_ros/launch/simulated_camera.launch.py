"""Grounding node and simulated camera: ros2 launch egm_ros simulated_camera.launch.py bundle_path:=DIR motion:=slide.

The camera publishes `image`, `camera_info` and `ground_truth`; `command:=` of the node and everything else is as in
grounding.launch.py. Without a source of pictures of your own, say what the camera says its sequence is about:

    ros2 topic pub --once /command std_msgs/msg/String "{data: the red mug}"
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = {
    "bundle_path": ("", "The model: bundle, checkpoint, hub id or server; empty for the shipped EGM-Nano."),
    "namespace": ("", "Namespace of node and camera."),
    "source": ("tabletop", "tabletop, video, folder or webcam."),
    "path": ("", "File of source video, directory of source folder."),
    "motion": ("mixed", "What moves on the tabletop."),
    "seed": ("0", "Which tabletop."),
    "width": ("640", "Pixels."),
    "height": ("480", "Pixels."),
    "rate_hz": ("30.0", "Pictures per second."),
}
TYPES = {"source": str, "path": str, "motion": str, "seed": int, "width": int, "height": int, "rate_hz": float}


def generate_launch_description() -> LaunchDescription:
    node = PathJoinSubstitution([FindPackageShare("egm_ros"), "launch", "grounding.launch.py"])
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=value, description=text)
                for name, (value, text) in ARGUMENTS.items()
            ),
            # The node's file first: it sets the transport profile for every process that is started after it.
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(node),
                launch_arguments={
                    "bundle_path": LaunchConfiguration("bundle_path"),
                    "namespace": LaunchConfiguration("namespace"),
                }.items(),
            ),
            Node(
                package="egm_ros",
                executable="simulated_camera",
                name="simulated_camera",
                namespace=LaunchConfiguration("namespace"),
                output="screen",
                parameters=[
                    {name: ParameterValue(LaunchConfiguration(name), value_type=kind) for name, kind in TYPES.items()}
                ],
                remappings=[],
            ),
        ]
    )
