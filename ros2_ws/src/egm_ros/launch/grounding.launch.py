"""Start the grounding node: ros2 launch egm_ros grounding.launch.py bundle_path:=DIR image:=/camera/image_raw."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = {
    "bundle_path": ("", "Directory of the bundle to run, made by `egm build`."),
    "params_file": (
        PathJoinSubstitution([FindPackageShare("egm_ros"), "config", "grounding.yaml"]),
        "Parameter file; arguments given here win over it.",
    ),
    "namespace": ("", "Namespace of the node, for several cameras."),
    "image": ("image", "Image topic; with image_transport:=compressed, its base name."),
    "command": ("command", "Topic of the sentences, std_msgs/String."),
    "image_transport": ("raw", "raw or compressed."),
    "autostart": ("true", "Configure and activate at start-up; false leaves that to a lifecycle manager."),
    "shared_memory": ("true", "Use the Fast DDS profile that carries raw camera frames; set it for the camera, too."),
}


def generate_launch_description() -> LaunchDescription:
    profile = PathJoinSubstitution([FindPackageShare("egm_ros"), "config", "fastdds_shared_memory.xml"])
    use_profile = IfCondition(LaunchConfiguration("shared_memory"))
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=value, description=text)
                for name, (value, text) in ARGUMENTS.items()
            ),
            # Fast DDS 2.x (Humble, Jazzy) reads the first name, 3.x (Kilted) the second.
            SetEnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", profile, condition=use_profile),
            SetEnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", profile, condition=use_profile),
            LifecycleNode(
                package="egm_ros",
                executable="grounding_node",
                name="grounding_node",
                namespace=LaunchConfiguration("namespace"),
                output="screen",
                parameters=[
                    LaunchConfiguration("params_file"),
                    {
                        # Typed: a bundle directory called 2024 or true must stay a string.
                        "bundle_path": ParameterValue(LaunchConfiguration("bundle_path"), value_type=str),
                        "image_transport": LaunchConfiguration("image_transport"),
                        "autostart": ParameterValue(LaunchConfiguration("autostart"), value_type=bool),
                    },
                ],
                remappings=[("image", LaunchConfiguration("image")), ("command", LaunchConfiguration("command"))],
            ),
        ]
    )
